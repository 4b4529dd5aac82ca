"""What the recipes are made of; the README's section "What is where" says what each module is for."""

import logging

__version__ = "0.1.0"


def _is_said(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward")


# peft imports bitsandbytes wherever it is installed, and that says on some CPUs that it failed to load a faster kernel
# from the Hub. Nothing failed: nobody asked for it.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_said)
