"""From a planned Program to a Plan: an implementation for every region, and the buffers they share."""
