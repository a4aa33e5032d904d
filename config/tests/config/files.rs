//! Which file is read, what is said of one that cannot be, and the files that a configuration names.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sluice_config::{Problem, Source, limits, load};
use sluice_policy::Mode;

use crate::common::load_in;

fn refused(source: &Source) -> Problem {
    let mut errors = load(source).unwrap_err().errors;
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.remove(0)
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn the_flag_comes_before_the_variable_before_the_default_path() {
    let folder = tempfile::tempdir().unwrap();
    let mode = |name: &str, mode: &str| {
        write(folder.path(), name, format!("mode = \"{mode}\"\n[deny]\ncontact = \"{name}\""))
    };
    let (flag, variable, default) =
        (mode("flag", "registry_only"), mode("variable", "registry_only"), mode("default", "registry_only"));
    let mut source = Source {
        path: Some(flag.clone()),
        environment: vec![("SLUICE_CONFIG".into(), variable.clone().into_os_string())],
        default_path: default.clone(),
        ..Source::isolated(None)
    };
    assert_eq!(load(&source).unwrap().plan.file, Some(flag));
    source.path = None;
    assert_eq!(load(&source).unwrap().plan.file, Some(variable));
    source.environment.clear();
    assert_eq!(load(&source).unwrap().plan.file, Some(default));
    source.default_path = folder.path().join("gone");
    let plan = load(&source).unwrap().plan;
    assert_eq!((plan.file, plan.mode), (None, Mode::AllowAny));
}

#[test]
fn a_log_that_cannot_be_made_hinders_a_start_and_no_reload() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "file", "");
    let text = |log: &Path| format!("mode = \"allow_any\"\n[access_log]\npath = {log:?}\n");
    for (log, message) in [
        (folder.path().join("gone/a.log"), "/gone does not exist"),
        (file.join("a.log"), "/file is no folder"),
        (file.join("x/a.log"), "/file/x is no folder"),
        (folder.path().to_path_buf(), " is a folder"),
    ] {
        let loaded = load_in(folder.path(), &text(&log)).unwrap();
        let problem = loaded.startable().unwrap_err().errors.remove(0);
        let place = (problem.line, problem.column, problem.key.as_str());
        assert_eq!(place, (3, 8, "access_log.path"), "{problem}");
        assert!(problem.message.ends_with(message) && problem.suggestion.is_some(), "{problem}");
        // Beside other errors it is one of them.
        let report = load_in(folder.path(), &(text(&log) + "colour = 1\n")).unwrap_err();
        assert_eq!(report.errors.len(), 2, "{report}");
    }
    for log in [folder.path().join("a.log"), file, PathBuf::from("/dev/stdout")] {
        assert!(load_in(folder.path(), &text(&log)).unwrap().startable().is_ok(), "{log:?}");
    }
}

#[test]
fn a_named_file_must_be_there_and_readable() {
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone.toml");
    assert!(refused(&Source::isolated(Some(gone.clone()))).message.contains("no such file"));
    let variable = |value: PathBuf| Source {
        environment: vec![("SLUICE_CONFIG".into(), value.into_os_string())],
        ..Source::isolated(None)
    };
    assert!(refused(&variable(gone)).message.contains("no such file"));
    assert!(refused(&variable(PathBuf::new())).message.contains("set and empty"));
    let directory = refused(&Source::isolated(Some(folder.path().to_path_buf())));
    assert!(directory.message.contains("is a directory"), "{directory}");
    let default = Source { default_path: folder.path().to_path_buf(), ..Source::isolated(None) };
    assert!(refused(&default).message.contains("is a directory"));
    let dangling = folder.path().join("dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    assert!(
        refused(&Source { default_path: dangling, ..Source::isolated(None) })
            .message
            .contains("no such file")
    );
}

#[test]
fn content_that_is_no_configuration_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, at, message) in [
        ("empty", b"".as_slice(), (1, 1), "is empty"),
        ("blank", b" \n\t\n".as_slice(), (1, 1), "is empty"),
        ("mark", b"\xef\xbb\xbf\n".as_slice(), (1, 1), "is empty"),
        ("latin", b"mode = \"allow_any\"\n# \xe9\n".as_slice(), (2, 3), "not UTF-8"),
        ("nul", b"mode = \"allow_any\"\n\0".as_slice(), (2, 2), "syntax error"),
    ] {
        let problem = refused(&Source::isolated(Some(write(folder.path(), name, bytes))));
        assert_eq!((problem.line, problem.column), at, "{problem}");
        assert!(problem.message.contains(message), "{problem}");
    }
    let large =
        write(folder.path(), "large", vec![b'#'; usize::try_from(limits::FILE_BYTES_MAX).unwrap() + 1]);
    assert!(refused(&Source::isolated(Some(large))).message.contains("larger than"));
    let marked = write(folder.path(), "marked", "\u{feff}mode = \"registry_only\"\n");
    assert_eq!(load(&Source::isolated(Some(marked))).unwrap().plan.mode, Mode::RegistryOnly);
    let windows =
        write(folder.path(), "windows", "mode = \"registry_only\"\r\n\r\n[deny]\r\ncontact = 1\r\n");
    assert_eq!(refused(&Source::isolated(Some(windows))).line, 4);
}

const WITH_CREDENTIALS: &str = "mode = \"registry_only\"\n[[listener]]\nkind = \"http_proxy\"\nbind = \"127.0.0.1:1\"\nauth = \"required\"\n\
    [[workload]]\nname = \"w\"\ncredentials = [{ user = \"u\", password_file = \"password\" }]\n";

#[test]
fn passwords_are_read_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "password", "hunter2 and spaces \r\n");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let loaded = load_in(folder.path(), WITH_CREDENTIALS).unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.plan.credentials[0].password.expose_secret(), b"hunter2 and spaces ");
    assert_eq!(loaded.plan.files, [folder.path().join("sluice.toml"), path.clone()]);
    assert!(!format!("{:?}", loaded.plan).contains("hunter2"));
    assert!(format!("{:?}", loaded.plan).contains("[redacted]"));
    let json = loaded.plan.effective_json();
    assert!(!json.to_string().contains("hunter2"));
    assert_eq!(json["values"]["workload"][0]["credentials"][0]["password"], "[redacted]");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o604)).unwrap();
    let warnings = load_in(folder.path(), WITH_CREDENTIALS).unwrap().warnings;
    assert!(warnings[0].message.contains("every user"), "{warnings:#?}");
    assert_eq!((warnings[0].line, warnings[0].key.as_str()), (8, "workload[0].credentials[0].password_file"));
}

#[test]
fn password_files_that_hold_no_password_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let problem = || load_in(folder.path(), WITH_CREDENTIALS).unwrap_err().errors.remove(0);
    assert!(problem().message.contains("no such file"));
    for (content, message) in [
        ("".to_owned(), "no password"),
        ("\n\n".to_owned(), "no password"),
        ("one\ntwo\n".to_owned(), "more than one line"),
        ("x".repeat(5000), "larger than 4096"),
    ] {
        write(folder.path(), "password", content);
        let problem = problem();
        assert!(problem.message.contains(message), "{problem}");
        assert_eq!((problem.line, problem.column), (8, 46), "{problem}");
    }
}

#[test]
fn users_and_principals_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "password", "x");
    let twice = format!(
        "{WITH_CREDENTIALS}[[workload]]\nname = \"v\"\ncredentials = [{{ user = \"u\", password_file = \"password\" }}]\n"
    );
    let problem = load_in(folder.path(), &twice).unwrap_err().errors.remove(0);
    assert!(problem.message.contains("already there as `workload[0].credentials[0].user`"), "{problem}");
    let colon = WITH_CREDENTIALS.replace("\"u\"", "\"a:b\"");
    assert!(load_in(folder.path(), &colon).unwrap_err().errors[0].message.contains("no colon"));
    let missing = WITH_CREDENTIALS.replace("user = \"u\", ", "");
    let errors = load_in(folder.path(), &missing).unwrap_err().errors;
    assert!(errors.iter().any(|error| error.message.contains("`user` is missing")), "{errors:#?}");
    for (principal, message) in [
        ("idgen", "not a SPIFFE id"),
        ("spiffe://cluster.local", "not a SPIFFE id"),
        ("spiffe://cluster.local/ns/other/sa/x", "namespace \"other\""),
    ] {
        let text = format!("{WITH_CREDENTIALS}principal = \"{principal}\"\n");
        let problem = load_in(folder.path(), &text).unwrap_err().errors.remove(0);
        assert!(problem.message.contains(message), "{problem}");
        assert_eq!(problem.key, "workload[0].principal");
    }
}

#[test]
fn addresses_belong_to_one_workload() {
    let folder = tempfile::tempdir().unwrap();
    let text = |second: &str| {
        format!(
            "mode = \"registry_only\"\n[[workload]]\nname = \"a\"\naddresses = [\"10.0.0.0/24\"]\n\
             [[workload]]\nname = \"b\"\naddresses = [\"{second}\"]\n"
        )
    };
    load_in(folder.path(), &text("10.0.0.0/25")).unwrap();
    for same in ["10.0.0.0/24", "::ffff:10.0.0.0/120"] {
        let problem = load_in(folder.path(), &text(same)).unwrap_err().errors.remove(0);
        assert!(problem.message.contains("already an address of `workload[0]`"), "{problem}");
        assert_eq!(problem.key, "workload[1].addresses[0]");
    }
}

#[test]
fn hosts_files_have_lines_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let text = "mode = \"registry_only\"\n[[service]]\nname = \"a\"\nhosts = [\"A.example\"]\nhosts_file = \"hosts\"\n";
    write(folder.path(), "hosts", "# ours\n\na.example # again\r\n  *.B.example\nbücher.example\n");
    let plan = load_in(folder.path(), text).unwrap().plan;
    let mut hosts: Vec<&str> = plan.policy.hosts().collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["*.b.example", "a.example", "xn--bcher-kva.example"]);
    write(folder.path(), "hosts", "a.example\n  https://b.example/ # no\nc.example:443\n");
    let errors = load_in(folder.path(), text).unwrap_err().errors;
    let places: Vec<_> = errors.iter().map(|error| (error.line, error.column)).collect();
    assert_eq!(places, [(2, 3), (3, 1)], "{errors:#?}");
    assert!(
        errors.iter().all(|error| error.file.ends_with("/hosts") && error.key == "service[0].hosts_file")
    );
    write(folder.path(), "hosts", b"a.example\n\xff");
    let problem = load_in(folder.path(), text).unwrap_err().errors.remove(0);
    assert!(problem.message.contains("not UTF-8"), "{problem}");
}

#[test]
fn a_large_hosts_file_loads() {
    let folder = tempfile::tempdir().unwrap();
    let many: String = (0..20_000).map(|index| format!("h{index}.example\n")).collect();
    write(folder.path(), "hosts", many);
    let text = "mode = \"registry_only\"\n[[service]]\nname = \"a\"\nhosts_file = \"hosts\"\n";
    assert_eq!(load_in(folder.path(), text).unwrap().plan.policy.counts().hosts, 20_000);
}

/// A FIFO that nobody writes into, and a socket: to read either would take for ever, or cannot be.
fn pipe_and_socket(folder: &Path) -> [&'static str; 2] {
    let pipe = folder.join("pipe.yaml");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    drop(std::os::unix::net::UnixListener::bind(folder.join("socket.yaml")).unwrap());
    ["pipe.yaml", "socket.yaml"]
}

/// Does it on a thread of its own and waits for a bounded time, since the fault is to wait for ever.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    done.recv_timeout(std::time::Duration::from_secs(20)).expect("an answer: it must not wait for a writer")
}

#[test]
fn what_is_not_a_regular_file_is_refused_at_once_wherever_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for name in pipe_and_socket(folder.path()) {
        let path = folder.path().join(name);
        let main = Source::isolated(Some(path.clone()));
        let default = Source { default_path: path, ..Source::isolated(None) };
        for source in [main, default] {
            let problem = in_time(move || refused(&source));
            assert!(problem.to_string().contains(&format!("{name} is not a regular file")), "{problem}");
        }
        for (text, line) in [
            (format!("mode = \"registry_only\"\n[registry]\nservice_entries = [\"{name}\"]\n"), 0),
            (
                format!(
                    "mode = \"registry_only\"\n[registry]\nservice_entries = [\"{}*.yaml\"]\n",
                    &name[..3]
                ),
                0,
            ),
            (format!("mode = \"registry_only\"\n[[service]]\nname = \"a\"\nhosts_file = \"{name}\"\n"), 4),
            (WITH_CREDENTIALS.replace("\"password\"", &format!("\"{name}\"")), 8),
        ] {
            let (at, shown) = (folder.path().to_path_buf(), text.clone());
            let report = in_time(move || load_in(&at, &text).map(drop)).unwrap_err();
            let error =
                report.errors.iter().find(|error| error.to_string().contains("is not a regular file"));
            let error = error.unwrap_or_else(|| panic!("{report}\n{shown}"));
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(error.line, line, "{error}");
        }
    }
}

#[test]
fn an_import_reads_what_a_command_pipes_into_it() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    pipe_and_socket(folder.path());
    let pipe = folder.path().join("pipe.yaml");
    let source = sluice_config::ImportSource::File(pipe.clone());
    let writer = std::thread::spawn(move || {
        let mut pipe = std::fs::OpenOptions::new().write(true).open(pipe).unwrap();
        pipe.write_all(
            b"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec:\n  hosts: [a.example]\n  \
              ports: [{number: 443, name: tls, protocol: TLS}]\n  resolution: DNS\n",
        )
        .unwrap();
    });
    let import = in_time(move || sluice_config::import_istio(&[source]));
    assert_eq!(import.map(|import| import.services).unwrap(), 1);
    writer.join().unwrap();
}
