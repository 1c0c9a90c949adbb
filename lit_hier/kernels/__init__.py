"""Kernels for GPUs: functions that Triton compiles, and when they are used (`compiled`)."""
