"""The CUDA backend: persistent Triton kernels that read their lists of work from device memory."""
