from .comparison import (
    accuracy_against as accuracy_against,
    break_even_lines as break_even_lines,
    difference_matrix as difference_matrix,
    ladder as ladder,
    leads_by_draw as leads_by_draw,
    stars as stars,
)
from .curves import (
    abstention_lines as abstention_lines,
    interval_widths as interval_widths,
    layer_curve as layer_curve,
    learning_curve as learning_curve,
    loss_curve as loss_curve,
    reliability_diagram as reliability_diagram,
)
from .data import (
    audit_bars as audit_bars,
    class_balance as class_balance,
    confusion as confusion,
    length_histogram as length_histogram,
    projection as projection,
)
from .styles import (
    METHOD_STYLES as METHOD_STYLES,
    OKABE_ITO as OKABE_ITO,
    class_style as class_style,
    method_style as method_style,
    style as style,
    use_style as use_style,
)
from .weights import (
    bit_layout as bit_layout,
    error_curve as error_curve,
    loss_bars as loss_bars,
    memory_bars as memory_bars,
    spectrum as spectrum,
    weight_levels as weight_levels,
)
