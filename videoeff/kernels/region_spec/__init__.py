"""Region specs: a producer, a short epilogue and views of memory, which native kernels are made of."""
