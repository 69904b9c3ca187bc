"""What torch's documentation and sources say of operations of aten on CUDA tensors."""

# The host waits for the device: it needs a value, the size of a result, or an error code.
WAITING = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "histc", "cholesky"),
    *("_linalg_check_errors", "linalg_lstsq", "linalg_eig", "linalg_eigvals", "_linalg_eigvals"),
    *("_linalg_eigh", "_linalg_svd", "linalg_matrix_exp", "_ctc_loss"),
    *("allclose", "linalg_pinv"),
}
# Indices are brought to the device, and a mask becomes indices whose number the host asks for.
INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
# cuBLAS computes them, whose results repeat with CUBLAS_WORKSPACE_CONFIG alone.
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv"}
WORKSPACES = (":4096:8", ":16:8")  # with which they repeat
# Refused by torch.use_deterministic_algorithms(True), whose docstring lists them.
NONDETERMINISTIC = {
    *("avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"),
    *("adaptive_max_pool2d_backward", "fractional_max_pool2d_backward", "max_unpool2d"),
    *("fractional_max_pool3d_backward", "max_unpool3d", "upsample_linear1d_backward"),
    *("upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "put", "put_", "histc"),
    *("upsample_trilinear3d_backward", "reflection_pad1d_backward", "reflection_pad2d_backward"),
    *("reflection_pad3d_backward", "nll_loss2d_forward", "nll_loss2d_backward", "kthvalue"),
    *("_ctc_loss_backward", "grid_sampler_2d_backward", "grid_sampler_3d_backward"),
}
# Refused likewise, of some overload or for some arguments.
MEDIANS = {"median", "nanmedian"}  # with indices
SUMS = {"cumsum", "cumsum_"}  # of floating point numbers
# Take a 0-dim tensor of the host besides tensors of the device, as elementwise operations do.
TAKE_SCALARS = {"where", "fill_", "masked_fill", "masked_fill_", "copy", "lerp", "lerp_"}
TAKE_SCALARS |= {"addcmul", "addcmul_", "addcdiv", "addcdiv_", "index_fill", "index_fill_"}
