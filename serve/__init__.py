"""Serve a store and a detector over HTTP. `serve/app.py` makes the application, `serve/deployments.py` puts it on Ray."""
