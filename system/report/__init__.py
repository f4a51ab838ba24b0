"""What people see of a run: self-contained HTML, and tables on the terminal."""
