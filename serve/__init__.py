"""Serve a store and a detector over HTTP. `app.py` makes the application, `deployments.py` puts it on Ray."""
