"""The native kernels: C++ sources in ``src``, and how Python finds, describes and calls them."""
