"""Training: data order and collation, the speech trainer, and the routing curriculum of MoE-Whisper."""
