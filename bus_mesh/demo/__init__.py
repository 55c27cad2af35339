"""The small shop that `busmesh up --demo` runs: orders ask stock, web asks orders."""
