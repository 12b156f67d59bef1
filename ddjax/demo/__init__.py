"""Demo: a page in the browser that draws by several methods, side by side, on the same noise."""
