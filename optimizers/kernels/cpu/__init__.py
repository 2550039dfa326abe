"""Functions that are faster on a CPU than torch's own calls.

Each replaces the `@replaceable` function of its name, and returns NotImplemented where it cannot: without a compiler,
or for tensors of another kind.
"""

from . import products, projected_passes, quantisation_passes, scaling_passes

# By the name of the function that each replaces.
REPLACEMENTS = {
    function.__name__: function
    for function in (
        products.project,
        products.average_gram,
        products.rowwise_products,
        products.newton_schulz_iterations,
        projected_passes.adam_moments,
        projected_passes.adam_moments_with_sumsq,
        projected_passes.adam_sumsq,
        projected_passes.column_sumsq,
        projected_passes.project_with_sumsq,
        projected_passes.residual_scales,
        quantisation_passes.quantised,
        quantisation_passes.dequantised,
        scaling_passes.racs_scales,
        scaling_passes.subtract_scaled,
    )
}
