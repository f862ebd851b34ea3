"""What a build of llama.cpp is told of the processor."""

from __future__ import annotations

from deploy.dev.bootstrap import without_amx

TILES = "flags\t\t: fma avx2 avx_vnni avx512f avx512_bf16 amx_tile amx_int8"


def test_matrix_tiles_are_left_out_of_a_build() -> None:
    """Everything else that the processor has is built for by name."""
    wanted = ["GGML_AVX_VNNI", "GGML_AVX512", "GGML_AVX512_BF16"]
    assert ["-DGGML_NATIVE=OFF", *(f"-D{name}=ON" for name in wanted)] == without_amx(TILES)


def test_a_processor_without_them_is_built_for_as_it_is() -> None:
    """The compiler knows it best."""
    assert [] == without_amx("flags\t\t: fma avx2")
    assert [] == without_amx("Features\t: fp asimd")
