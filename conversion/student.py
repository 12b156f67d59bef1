"""Rules for what the released Distilled Decoding students add to their teachers."""

from conversion.convolutions import layer_rules
from conversion.tables import LINEAR, Rule

ADDED = (
    Rule(r"n_d_embed\.weight", "noise_data_embed/embedding"),
    Rule(r"final_layer_conti\.scale_shift_table", "vector_head/shift_scale"),
    *layer_rules(r"final_layer_conti\.linear", "vector_head/linear", LINEAR),
)
