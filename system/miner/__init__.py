"""SceneMiner: one forward pass from a camera-only scene to embedding, tags, risk and forecast. No Ray, no store."""
