mod cuda;
mod devices;
