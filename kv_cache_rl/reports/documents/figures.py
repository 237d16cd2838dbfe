"""Figures of the documents: copies of files under results/, because a site holds only what lies in docs/."""

FIGURES = {
    "eviction_training.png": "eviction/training.png",
    "training_course.png": "training/course.png",
    "hierarchy_miss_ratio.png": "hierarchy/default/plots/miss_ratio.png",
    "stability_boundary.png": "stability/boundary.png",
    "stability_hysteresis.png": "stability/hysteresis.png",
    "serving_ppo.png": "serving/ppo.png",
    "serving_neural.png": "serving/neural.png",
    "page_serving.png": "page/serving.png",
    "page_episode.png": "page/episode.png",
    "paged_throughput.png": "paged/bench_throughput.png",
    "paged_block_tables.png": "paged/block_tables.png",
    "paged_fragmentation.png": "paged/bench_fragmentation.png",
}
"""File in docs/images/ → file under results/."""
