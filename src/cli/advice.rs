//! Advice: what a user can do when damage keeps a machine from starting.
//!
//! The error says what is wrong, and where. What helps depends on what is left:
//!
//! | what is damaged | what makes up for it |
//! |---|---|
//! | a file of the archive | the same file, from a copy of the archive |
//! | a segment, the end of the log | the other machines; alone, a copy of the directory |
//! | the checkpoint that a log without a beginning starts from | a copy of it; or the same |
//! | `node.json` | a copy of it; or the same |

use std::path::Path;

use etcd_log::LogError;

use crate::server::ServeError;
use crate::storage::data_dir::DataDirError;
use crate::storage::recovery::RecoveryError;

/// What helps a machine of a cluster, and one that is alone.
const BEGIN_AGAIN: &str = "a machine of a cluster: remove it (etcd machine remove NAME), and let it join again (-C) with an empty directory; \
     a machine alone: go back to a copy of its directory that etcd log verify finds good";

/// Returns what to do about an error that has stopped a start, if it is damage.
pub(crate) fn advice(error: &ServeError) -> Option<String> {
    match error {
        ServeError::DataDir(DataDirError::Unreadable { path, .. }) => {
            let path = path.display();
            Some(format!("put {path} back from a copy; else, {BEGIN_AGAIN}"))
        }
        ServeError::Ownerless(_) => Some(format!(
            "put node.json back from a copy; or set all aside with -i, to start anew; else, {BEGIN_AGAIN}"
        )),
        ServeError::Log(error) | ServeError::Recovery(RecoveryError::Log(error)) => of_log(error),
        ServeError::Recovery(RecoveryError::NoStart { dir, .. }) => {
            let dir = dir.display();
            Some(format!("put the files of {dir} back from a copy; else, {BEGIN_AGAIN}"))
        }
        ServeError::Recovery(_) => Some(BEGIN_AGAIN.to_owned()),
        _ => None,
    }
}

fn of_log(error: &LogError) -> Option<String> {
    match error {
        LogError::Damage(damage) => Some(of_file(&damage.path)),
        LogError::Gap(gap) => {
            let path = gap.path.display();
            Some(format!(
                "put the file before {path} back from a copy, if it is one of archive/; else, {BEGIN_AGAIN}"
            ))
        }
        LogError::Missing(_) | LogError::Foreign { .. } => Some(BEGIN_AGAIN.to_owned()),
        LogError::Stray(path) => Some(format!("move {} elsewhere", path.display())),
        _ => None,
    }
}

fn of_file(path: &Path) -> String {
    if path.extension().is_some_and(|end| end == "sealed") {
        return format!(
            "put {} back from a copy of the archive, whose files never change; else, {BEGIN_AGAIN}",
            path.display()
        );
    }
    BEGIN_AGAIN.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_changes_can_be_put_back() {
        let damaged = Path::new("d/archive/00000000000000000001-00000000000000000009.sealed");
        let what = of_file(damaged);
        assert!(
            what.starts_with("put d/archive/0") && what.contains(" back from a copy"),
            "{what}"
        );
        assert_eq!(of_file(Path::new("d/wal/wal-1")), BEGIN_AGAIN);
    }
}
