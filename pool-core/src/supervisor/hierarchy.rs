//! Where control groups can be made: the hierarchies, and this program's place in them.
//!
//! A controller is in the first version's hierarchies (`/sys/fs/cgroup/<controller>`) or in the second's (`/sys/fs/cgroup`, or
//! `/sys/fs/cgroup/unified` beside the first); `/proc/self/cgroup` tells.
//!
//! In the first, groups are made in the one of this program.
//!
//! In the second, a process is in one group only, so all controllers that are needed must be had in one place. That is beside
//! this program's own group: a group that has processes may not hand `memory` on, and if it hands `pids` on, the groups in it are
//! fit for threads only. At the top of the tree that does not hold, so there they are made within. Where the parent does not hand a
//! controller on, this program has it do so if it is an ordinary user's: who may write there has been given that part of the tree.
//! What root may write belongs to somebody else most of the time, who would take it back.

use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// Where groups with these controllers can be made, for each of them.
///
/// # Errors
/// Why there is no such place, for people.
pub(super) fn places(
    mounted: &Path,
    own: &str,
    controllers: &[&str],
    is_root: bool,
) -> Result<Vec<(PathBuf, Version)>, String> {
    let first: Vec<_> =
        controllers.iter().map(|controller| first_version(mounted, own, controller)).collect();
    let others: Vec<&str> =
        controllers.iter().zip(&first).filter(|(_, dir)| dir.is_none()).map(|(name, _)| *name).collect();
    let second =
        if others.is_empty() { PathBuf::new() } else { second_version(mounted, own, &others, is_root)? };
    let either =
        |dir: Option<PathBuf>| dir.map_or_else(|| (second.clone(), Version::Two), |dir| (dir, Version::One));
    Ok(first.into_iter().map(either).collect())
}

/// The group of this program in the hierarchy of the second version.
pub(super) fn unified(mounted: &Path, own: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let roots = [mounted.to_path_buf(), mounted.join("unified")];
    roots.into_iter().map(|root| root.join(path)).find(|dir| dir.join("cgroup.controllers").exists())
}

/// The group of this program in a hierarchy of the first version, or the top of it where that is not in sight.
fn first_version(mounted: &Path, own: &str, controller: &str) -> Option<PathBuf> {
    let lines = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        Some((parts.next()?, parts.next()?))
    });
    let (_, path) = lines
        .filter(|(names, _)| !names.is_empty())
        .find(|(names, _)| names.split(',').any(|name| name == controller))?;
    let root = mounted.join(controller);
    [root.join(path.trim_start_matches('/')), root].into_iter().find(|dir| dir.join("cgroup.procs").exists())
}

fn second_version(mounted: &Path, own: &str, wanted: &[&str], is_root: bool) -> Result<PathBuf, String> {
    let lacks = |file: &Path| {
        let text = fs::read_to_string(file).unwrap_or_default();
        wanted.iter().copied().find(|name| !text.split_ascii_whitespace().any(|word| word == *name))
    };
    // What is refused shows in what it says then.
    let hand_on = |dir: &Path| {
        let file = dir.join("cgroup.subtree_control");
        for name in wanted {
            if lacks(&file).is_some()
                && let Err(error) = fs::write(&file, format!("+{name}"))
            {
                tracing::debug!(controller = name, group = ?dir, %error, "a control group does not hand a controller on");
            }
        }
        lacks(&file)
    };
    let dir = unified(mounted, own).ok_or_else(|| format!("no {} controller is mounted here", wanted[0]))?;
    let (place, lacking) = if is_top(&dir) {
        let lacking = hand_on(&dir);
        (dir, lacking)
    } else {
        let within =
            |parent: &&Path| parent.starts_with(mounted) && parent.join("cgroup.controllers").exists();
        let Some(parent) = dir.parent().filter(within) else {
            return Err(format!(
                "this program is in {}, with nothing above it in sight, and a group that has processes cannot be divided; it must be \
                 started in a group within that one",
                dir.display()
            ));
        };
        let handed_on = parent.join("cgroup.subtree_control");
        let lacking =
            lacks(&handed_on).and_then(|lacking| if is_root { Some(lacking) } else { hand_on(parent) });
        (parent.to_path_buf(), lacking)
    };
    match lacking {
        None => Ok(place),
        Some(name) if lacks(&place.join("cgroup.controllers")) == Some(name) => {
            Err(format!("there is no {name} controller in {}", place.display()))
        }
        Some(name) => Err(format!("{} does not hand its {name} controller on", place.display())),
    }
}

/// Whether it is the group that all others are in. What a name space shows as the top need not be it.
fn is_top(dir: &Path) -> bool {
    !dir.join("cgroup.type").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these files in it, removed on drop.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let tree = Self(std::env::temp_dir().join(format!("pool-cgroup-{}-{name}", std::process::id())));
            for (path, text) in files {
                let path = tree.0.join(path);
                fs::create_dir_all(path.parent().expect("it is within the tree")).expect("a writable /tmp");
                fs::write(path, text).expect("a writable /tmp");
            }
            tree
        }

        fn text(&self, path: &str) -> String {
            fs::read_to_string(self.0.join(path)).expect("it was made above")
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("it was made above");
        }
    }

    #[test]
    fn the_first_version_is_looked_for_where_this_program_is() {
        let tree = Tree::new("first", &[("pids/jobs/1/cgroup.procs", ""), ("memory/cgroup.procs", "")]);
        let own = "9:cpu,cpuacct:/x\n8:pids:/jobs/1\n4:memory:/hidden\n0::/\n";
        let found = |controllers: &[&str]| places(&tree.0, own, controllers, true);
        let (pids, memory) = (tree.0.join("pids/jobs/1"), tree.0.join("memory"));
        // Its own memory group is not in sight.
        let both = Ok(vec![(pids, Version::One), (memory, Version::One)]);
        assert_eq!(found(&["pids", "memory"]), both);
        assert_eq!(found(&["io"]), Err("no io controller is mounted here".to_owned()));
    }

    #[test]
    fn in_the_second_version_groups_are_beside_the_own_one() {
        let files = [
            ("unified/a/cgroup.controllers", "cpu memory pids"),
            ("unified/a/cgroup.subtree_control", "memory pids"),
            ("unified/a/b/cgroup.type", "domain"),
            ("unified/a/b/cgroup.controllers", "memory pids"),
            ("unified/a/b/cgroup.subtree_control", ""),
        ];
        let tree = Tree::new("beside", &files);
        let found = |controllers: &[&str], is_root| places(&tree.0, "0::/a/b\n", controllers, is_root);
        let beside = (tree.0.join("unified/a"), Version::Two);
        assert_eq!(found(&["pids"], true), Ok(vec![beside.clone()]));
        assert_eq!(found(&["pids", "memory"], false), Ok(vec![beside.clone(), beside]));
        assert_eq!(tree.text("unified/a/b/cgroup.subtree_control"), "", "that would make its groups unfit");
        let why = |controller, is_root| found(&[controller], is_root).expect_err("it is not handed on");
        assert!(why("cpu", true).ends_with("a does not hand its cpu controller on"), "{}", why("cpu", true));
        assert_eq!(tree.text("unified/a/cgroup.subtree_control"), "memory pids", "it is somebody else's");
        assert!(why("io", false).contains("there is no io controller in"), "{}", why("io", false));
        why("cpu", false);
        assert_eq!(tree.text("unified/a/cgroup.subtree_control"), "+cpu", "it is the user's");
    }

    #[test]
    fn at_the_top_of_the_second_version_groups_are_made_within() {
        let controllers = ("cgroup.controllers", "memory pids");
        let tree = Tree::new("top", &[controllers, ("cgroup.subtree_control", "pids")]);
        let found = |controller| places(&tree.0, "0::/\n", &[controller], true);
        assert_eq!(found("pids"), Ok(vec![(tree.0.clone(), Version::Two)]));
        found("memory").expect_err("what was written is not what the kernel would say");
        assert_eq!(tree.text("cgroup.subtree_control"), "+memory");
        // What looks like the top, and is not.
        fs::write(tree.0.join("cgroup.type"), "domain").expect("it is writable");
        let why = found("pids").expect_err("it has processes");
        assert!(why.contains("nothing above it in sight"), "{why}");
    }

    #[test]
    fn controllers_of_both_versions_have_a_place_each() {
        let files = [
            ("memory/jobs/cgroup.procs", ""),
            ("unified/cgroup.controllers", "pids"),
            ("unified/cgroup.subtree_control", "pids"),
        ];
        let tree = Tree::new("both", &files);
        let found = places(&tree.0, "4:memory:/jobs\n0::/\n", &["pids", "memory"], true);
        let two = (tree.0.join("unified"), Version::Two);
        assert_eq!(found, Ok(vec![two, (tree.0.join("memory/jobs"), Version::One)]));
    }
}
