"""The CUDA backend: persistent Triton kernels that read their worklists from device memory."""
