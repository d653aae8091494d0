//! Compiles the protocols with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=runtime");
    println!("cargo::rerun-if-changed=admin");
    println!("cargo::rerun-if-changed=shim");

    prost_build::Config::new().compile_fds(protox::compile(["shim/v1/shim.proto"], ["."])?)?;
    if std::env::var_os("CARGO_FEATURE_GRPC").is_some() {
        let services = ["runtime/v1/api.proto", "admin/v1/admin.proto"];
        tonic_prost_build::configure().compile_fds(protox::compile(services, ["."])?)?;
    }
    Ok(())
}
