"""The store: LanceDB tables that workers fill in two phases, one driver commits, and everybody searches."""
