"""Ray Data pipelines: from driving logs to rows of the store. The only room that imports ray.data."""
