"""The form of a region: a producer, a short programme and views of memory; native kernels are made of it."""
