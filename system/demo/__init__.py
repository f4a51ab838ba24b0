"""Demo logs: SUMO traffic in drawn towns, rendered for six cameras and an infrared one, written as nuScenes tables."""
