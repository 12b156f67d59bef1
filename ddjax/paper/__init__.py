"""The paper's tables beside one's own rows."""
