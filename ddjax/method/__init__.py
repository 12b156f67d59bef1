"""Method: Distilled Decoding itself, from noise to tokens; knows no model family."""
