"""Kernels for GPUs: functions that Triton compiles. They import nothing of this package."""
