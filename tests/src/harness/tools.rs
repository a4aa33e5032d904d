//! Real clients: curl, openssl, h2load.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a tool printed, and its exit code.
#[derive(Debug)]
pub struct Done {
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a tool to its end; it gets `input` and then an end of file.
///
/// # Panics
/// When it is not installed (`./test` installs what the tests need).
#[must_use]
pub fn tool(command: &mut Command, input: &[u8]) -> Done {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => panic!("{name}: {error}; ./test installs it"),
    };
    let mut stdin = child.stdin.take().expect("a piped input");
    stdin.write_all(input).ok();
    drop(stdin);
    child.wait_with_output().expect("a child has output").into()
}

/// curl through a proxy, quiet, bounded in time, with more arguments.
#[must_use]
pub fn curl(proxy: SocketAddr, arguments: &[&str]) -> Done {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--proxy"]).arg(format!("http://{proxy}"));
    tool(command.args(arguments), b"")
}

/// A self-signed certificate for a name, as `cert.pem` and `key.pem` in a folder.
///
/// # Panics
/// When openssl fails.
pub fn certificate(folder: &Path, name: &str) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    command.args(["-days", "2", "-subj", &format!("/CN={name}")]);
    command.args(["-addext", &format!("subjectAltName=DNS:{name}")]);
    command.arg("-keyout").arg(folder.join("key.pem")).arg("-out").arg(folder.join("cert.pem"));
    let done = tool(&mut command, b"");
    assert_eq!(done.code, 0, "{}", done.stderr);
}

/// `openssl s_client` to an address, with more arguments; it sends `input`.
#[must_use]
pub fn s_client(to: SocketAddr, arguments: &[&str], input: &[u8]) -> Done {
    let mut command = Command::new("timeout");
    command.args(["60", "openssl", "s_client", "-connect", &to.to_string(), "-ign_eof"]);
    tool(command.args(arguments), input)
}
