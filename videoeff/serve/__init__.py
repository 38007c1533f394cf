"""``videoeff serve``: cameras of a fleet as resources over HTTP and WebSocket.

``settings`` are what an operator configures, ``sources`` says what a camera added over the network may read,
``access`` who may ask, ``service`` holds the cameras, ``app`` the routes, ``server`` the process.
Needs ``pip install "videoeff[serve]"``.
"""
