"""What is fitted: mixtures and their components, as array maths without Dask, zarr or scikit-learn."""
