"""Checks of what lies in `cluster/`, for want of a cluster to try it on: `make manifests`."""
