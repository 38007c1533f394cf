"""How well a stream keeps to its dense network, judged by a metric, beside controls.

``metrics`` says what a metric is, ``choice`` picks one for a network's outputs, ``intervals`` tells how sure
a figure is, and ``controls`` runs what a user would do instead of streaming.
"""
