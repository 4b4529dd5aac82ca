"""What the recipes are made of; the README's section "What is where" says what each module is for."""

__version__ = "0.1.0"
