//! Compiles the protocols with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for folder in ["runtime", "admin", "shim", "record"] {
        println!("cargo::rerun-if-changed={folder}");
    }

    prost_build::Config::new().compile_fds(protox::compile(["shim/v1/shim.proto"], ["."])?)?;
    if std::env::var_os("CARGO_FEATURE_GRPC").is_some() {
        let services = ["runtime/v1/api.proto", "admin/v1/admin.proto"];
        // Ordered maps: equal requests encode to equal bytes, and a request is known again by its hash.
        tonic_prost_build::configure()
            .btree_map(".")
            .generate_default_stubs(true)
            .compile_fds(protox::compile(services, ["."])?)?;
        prost_build::Config::new()
            .extern_path(".runtime.v1", "crate::cri")
            .extern_path(".corten.shim.v1", "crate::shim")
            .compile_fds(protox::compile(["record/v1/record.proto"], ["."])?)?;
    }
    Ok(())
}
