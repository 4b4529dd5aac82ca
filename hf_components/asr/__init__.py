"""Speech recognition with any model: families that say how a kind of model is fed and read, and `Transcriber` over
them."""
