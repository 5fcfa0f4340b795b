# SPDX-License-Identifier: Apache-2.0
"""What leaves the machine: a folder with weights, text code, ONNX and a model card."""
