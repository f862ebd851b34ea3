"""What the configuration files of both daemons have: names, the TLS table, the log table."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from shared.limits import NAME_CHARS_MAX
from shared.settings import key_error

_NAME: Final = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{NAME_CHARS_MAX - 1}}}")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"should be up to {NAME_CHARS_MAX} of a-z, 0-9, '.', '_' and '-', beginning with a "
            "letter or a digit"
        )
    return value


Name = Annotated[str, AfterValidator(_name)]
NameOrNone = Annotated[str, AfterValidator(lambda value: _name(value) if value else value)]


class Section(BaseModel):
    """A table of a configuration file: without unknown keys, and never shown in errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class TlsConfig(Section):
    """The certificate that a daemon shows. Both files or neither."""

    cert_file: str = Field(default="", description="PEM file with the certificate chain")
    key_file: str = Field(default="", description="PEM file with the private key")

    @property
    def enabled(self) -> bool:
        """Whether there is a certificate to use."""
        return bool(self.cert_file)

    @model_validator(mode="after")
    def _both_or_neither(self) -> TlsConfig:
        if bool(self.cert_file) != bool(self.key_file):
            raise key_error(
                "key_file" if self.cert_file else "cert_file", "missing; both files or neither"
            )
        return self


class LogConfig(Section):
    """What is logged and how."""

    format: Literal["json", "console"] = Field(default="json", description="json or console")
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least level that is logged"
    )
