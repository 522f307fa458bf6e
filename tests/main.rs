//! One binary for all integration tests: DataFusion links once. Modules below are the areas.
