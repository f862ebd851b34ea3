"""A trained task model as an ONNX file, with weights of one byte."""

from __future__ import annotations

import json

import numpy as np

from coordinator.lab.task_training import Trained
from shared.task_model import INPUT_BUCKETS, INPUT_WEIGHTS, META_CLASSES, META_FEATURES, OUTPUT

WEIGHT_MAX = 127
OPSET = 17
IR_VERSION = 8  # what onnxruntime of 2022 reads already


def to_onnx(trained: Trained) -> bytes:
    """The file's content: `shared/task_model.py` says what it must hold.

    Each class has its own scale, so a rounded weight is off by at most 1/254 of the class's
    largest one.
    """
    # Here, not above: it takes a third of a second, which no other command should wait for.
    from onnx import TensorProto, checker, helper, numpy_helper  # noqa: PLC0415

    model = trained.model
    scale = np.abs(model.weights).max(axis=0) / WEIGHT_MAX
    scale[scale == 0.0] = 1.0
    constants = {
        "table": np.round(model.weights / scale).astype(np.int8),
        "scale": (scale / model.temperature).astype(np.float32),
        "bias": (model.bias / model.temperature).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", INPUT_BUCKETS], ["rows"]),
        helper.make_node("Cast", ["rows"], ["real_rows"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", [INPUT_WEIGHTS, "real_rows"], ["sums"]),
        helper.make_node("Mul", ["sums", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], [OUTPUT]),
    ]
    made = helper.make_graph(
        nodes,
        "task_classes",
        [
            helper.make_tensor_value_info(INPUT_BUCKETS, TensorProto.INT64, ["features"]),
            helper.make_tensor_value_info(INPUT_WEIGHTS, TensorProto.FLOAT, ["features"]),
        ],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [len(trained.classes)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    file = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)])
    file.ir_version = IR_VERSION
    helper.set_model_props(
        file,
        {
            META_FEATURES: trained.settings.to_json(),
            META_CLASSES: json.dumps(trained.classes),
        },
    )
    checker.check_model(file, full_check=True)
    data: bytes = file.SerializeToString()
    return data
