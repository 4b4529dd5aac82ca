"""What the recipes are made of. See docs/architecture in README.md for the map."""
