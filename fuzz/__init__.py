"""Bounded, seeded campaigns of damaged and hostile files against everything that reads files."""
