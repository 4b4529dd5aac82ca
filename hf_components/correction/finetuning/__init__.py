"""Fine-tuning a wav2vec2 on corrected transcripts: what is right, what is trained on, what has improved."""
