//! What the container of an installation and whoever started it agree on: no frames, two sockets.
//!
//! The agent of such a container is started as `envicutor-agent install PROGRAM ARGUMENTS…`. It connects once to [`LIFE_SOCKET`], and
//! ends, with everything in its container, when that connection does: an installation never outlives its installer. It
//! offers a proxy on loopback at [`PROXY_PORT`], each connection of which it leads to [`PROXY_SOCKET`], and names it to the
//! program by the usual variables. Its exit code is the program's, which is the installation's; what the program writes goes
//! to the container's own outputs.
//!
//! Everything here may be used by the installation itself, which is root in the container: neither socket gives more than the
//! proxy does.

/// The argument that makes the agent one of an installation.
pub const INSTALL: &str = "install";

/// The directory in the container that has the agent and both sockets. Below `/dev`, so that nothing of it is in the image.
pub const DIRECTORY: &str = "/dev/envicutor";

/// The agent's file in [`DIRECTORY`].
pub const AGENT: &str = "agent";

/// The socket in [`DIRECTORY`] whose end is the installation's end.
pub const LIFE_SOCKET: &str = "life.sock";

/// The socket in [`DIRECTORY`] that each connection to the proxy is led to.
pub const PROXY_SOCKET: &str = "proxy.sock";

/// The port on the container's loopback that the proxy is offered at.
pub const PROXY_PORT: u16 = 3128;

/// The variables that name the proxy to the program.
pub const PROXY_VARIABLES: [&str; 4] = ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"];

/// The exit code of an agent that could not do its part, or whose installer is gone.
pub const FAILED: i32 = 125;
