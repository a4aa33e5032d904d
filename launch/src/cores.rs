//! Which cores workers run on: the configured ones, else the affinity mask within the cgroup's quota, minus one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::product::WorkersDefault;

/// Where cgroup v2 is mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Cores that this process may run on.
///
/// # Errors
/// As sched_getaffinity(2).
pub(crate) fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// Where the workers run, one entry for each (`None`: wherever the system puts it), and in words why so.
pub(crate) type Places = (Vec<Option<usize>>, String);

/// The places of the workers.
///
/// # Errors
/// A configured core that this process may not run on.
pub(crate) fn for_workers(
    default: WorkersDefault,
    configured: Option<&[usize]>,
    allowed: &[usize],
    quota: Option<f64>,
) -> Result<Places, String> {
    if let Some(cores) = configured {
        return match cores.iter().find(|core| !allowed.contains(core)) {
            Some(core) => Err(format!(
                "dataplane.cores: core {core} is not among those that this process may run on ({})",
                ranges(allowed)
            )),
            None => Ok((cores.iter().copied().map(Some).collect(), "configured".to_owned())),
        };
    }
    if default == WorkersDefault::One {
        return Ok((vec![None], "dataplane.cores names none".to_owned()));
    }
    let mut usable = allowed.len();
    let mut why = format!("affinity {}", ranges(allowed));
    if let Some(quota) = quota {
        // A quota of 1.5 CPUs feeds one worker and the control plane, not two workers.
        usable = usable.min((quota.floor() as usize).max(1));
        why.push_str(&format!(", cgroup quota {quota:.1} CPUs"));
    }
    let workers = usable.saturating_sub(1).max(1);
    // The first core is left to the control plane where there is more than one.
    let first = allowed.len().saturating_sub(workers);
    why.push_str(", one left to the control plane");
    Ok((
        allowed[first..].iter().copied().map(Some).collect(),
        if usable > 1 { why } else { why.replace(", one left to the control plane", "") },
    ))
}

/// The cores on which no worker is kept; none where a worker may run on any.
pub(crate) fn without_workers(places: &[Option<usize>], allowed: &[usize]) -> Vec<usize> {
    if places.contains(&None) {
        return Vec::new();
    }
    allowed.iter().copied().filter(|core| !places.contains(&Some(*core))).collect()
}

/// Keeps the calling thread on one core.
///
/// # Errors
/// As sched_setaffinity(2).
pub(crate) fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// The CPU quota of this process's cgroup in CPUs, the tightest of the hierarchy; `None`: no limit. Version 2, and
/// version 1's own files where those are mounted.
pub(crate) fn quota() -> Option<f64> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    tightest(Path::new(CGROUP_ROOT), path).or_else(|| v1(Path::new(CGROUP_ROOT)))
}

fn tightest(root: &Path, own: &str) -> Option<f64> {
    let mut folder = PathBuf::from(root).join(own.trim_start_matches('/'));
    let mut quota: Option<f64> = None;
    while folder.starts_with(root) {
        if let Some(cpus) = fs::read_to_string(folder.join("cpu.max")).ok().as_deref().and_then(cpu_max) {
            quota = Some(quota.map_or(cpus, |quota| quota.min(cpus)));
        }
        if !folder.pop() {
            break;
        }
    }
    quota
}

/// `max 100000` or `150000 100000`: microseconds per period.
fn cpu_max(text: &str) -> Option<f64> {
    let mut words = text.split_ascii_whitespace();
    let quota: f64 = words.next()?.parse().ok()?;
    let period: f64 = words.next()?.parse().ok()?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

fn v1(root: &Path) -> Option<f64> {
    let read = |name: &str| fs::read_to_string(root.join("cpu").join(name)).ok();
    cpu_max(&format!("{} {}", read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim()))
}

/// `2 on core 1-2`, or `1 on any core`, for people.
pub(crate) fn describe(places: &[Option<usize>]) -> String {
    let cores: Vec<usize> = places.iter().copied().flatten().collect();
    match cores.is_empty() {
        true => format!("{} on any core", places.len()),
        false => format!("{} on core {}", places.len(), ranges(&cores)),
    }
}

/// `0-3,6` for people.
fn ranges(cores: &[usize]) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut rest = cores.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while rest.next_if_eq(&(last + 1)).is_some() {
            last += 1;
        }
        out.push(if first == last { first.to_string() } else { format!("{first}-{last}") });
    }
    out.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(configured: Option<&[usize]>, allowed: &[usize], quota: Option<f64>) -> Vec<usize> {
        let places = for_workers(WorkersDefault::PerCore, configured, allowed, quota).expect("cores").0;
        places.into_iter().map(|core| core.expect("pinned")).collect()
    }

    #[test]
    fn where_the_machine_is_somebody_elses_one_worker_runs_anywhere() {
        let (places, why) = for_workers(WorkersDefault::One, None, &[0, 1, 2, 3], None).expect("one");
        assert_eq!((places.as_slice(), describe(&places).as_str()), (&[None][..], "1 on any core"), "{why}");
        let (places, _) = for_workers(WorkersDefault::One, Some(&[1, 2]), &[0, 1, 2, 3], None).expect("two");
        assert_eq!(describe(&places), "2 on core 1-2");
    }

    #[test]
    fn one_core_is_left_to_the_control_plane_and_one_worker_always_runs() {
        assert_eq!(workers(None, &[0, 1, 2, 3], None), [1, 2, 3]);
        assert_eq!(workers(None, &[5], None), [5]);
        assert_eq!(workers(None, &[0, 1, 2, 3], Some(2.5)), [3]);
        assert_eq!(workers(None, &[0, 1, 2, 3], Some(0.5)), [3]);
        assert_eq!(workers(None, &[0, 1], Some(64.0)), [1]);
    }

    #[test]
    fn what_takes_long_stays_off_the_workers_cores_where_there_are_others() {
        assert_eq!(without_workers(&[Some(1), Some(3)], &[0, 1, 2, 3]), [0, 2]);
        assert_eq!(without_workers(&[Some(0)], &[0]), Vec::<usize>::new());
        assert_eq!(without_workers(&[None], &[0, 1]), Vec::<usize>::new());
    }

    #[test]
    fn configured_cores_are_taken_or_refused() {
        assert_eq!(workers(Some(&[0, 2]), &[0, 1, 2], Some(1.0)), [0, 2]);
        let error = for_workers(WorkersDefault::PerCore, Some(&[7]), &[0, 1], None).expect_err("not allowed");
        assert!(error.contains('7') && error.contains("0-1"), "{error}");
    }

    #[test]
    fn quotas_are_read_and_the_tightest_counts() {
        assert_eq!(cpu_max("max 100000\n"), None);
        assert_eq!(cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(cpu_max("-1 100000"), None);
        let root = tempfile::tempdir().expect("a folder");
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).expect("folders");
        fs::write(root.path().join("a/cpu.max"), "200000 100000").expect("write");
        fs::write(inner.join("cpu.max"), "max 100000").expect("write");
        assert_eq!(tightest(root.path(), "/a/b"), Some(2.0));
    }

    #[test]
    fn ranges_are_short() {
        assert_eq!(ranges(&[0, 1, 2, 4, 6, 7]), "0-2,4,6-7");
        assert_eq!(ranges(&[]), "");
    }
}
