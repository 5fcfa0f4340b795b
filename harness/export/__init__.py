# SPDX-License-Identifier: Apache-2.0
"""Export of a model: a folder with weights, text pipeline, ONNX and a model card."""
