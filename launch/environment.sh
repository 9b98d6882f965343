# shellcheck shell=bash
# What the environment of every process should say, in one place; sourced by the launchers. A variable that is set
# already wins, so that each can be overridden from outside.

# Compiled programs survive a restart: a 7B step takes minutes to compile, and preempted runs start often.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/ega_jax/compiled}"

# Proxies are for downloads; gRPC between the processes would go through them too, and time out.
if [[ -n "${http_proxy:-}${https_proxy:-}${HTTP_PROXY:-}${HTTPS_PROXY:-}" ]]; then
  export no_proxy="${no_proxy:-localhost,127.0.0.1}"
fi

if [[ -e /dev/nvidia0 ]]; then
  # JAX takes three quarters of a GPU's memory by default: the rest is then lost to activations.
  export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
  # Collectives (FSDP's gathers, the loss's exchange) overlap with matrix products.
  export XLA_FLAGS="${XLA_FLAGS:---xla_gpu_enable_latency_hiding_scheduler=true}"
  # InfiniBand retries for a minute and not four seconds before a busy link counts as broken.
  export NCCL_IB_TIMEOUT="${NCCL_IB_TIMEOUT:-22}"
elif compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null; then
  # Gathers of FSDP run beside the products that do not need them yet.
  export LIBTPU_INIT_ARGS="${LIBTPU_INIT_ARGS:---xla_tpu_enable_async_collective_fusion=true --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true --xla_tpu_overlap_compute_collective_tc=true}"
fi
