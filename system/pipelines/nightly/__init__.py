"""One night after another: find, mine, label, rank, tag, maintain, compare, report."""
