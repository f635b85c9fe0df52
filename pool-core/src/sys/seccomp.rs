//! Seccomp: a process gives up system calls.
//!
//! A filter is a program of the kernel's that looks at the number of each call, its architecture and the low half of its
//! arguments; memory behind pointers is out of its sight. Calls that are refused fail with `EPERM`. So nothing is allowed here that
//! hides behind a pointer: `clone3` and `openat2` are said to be unknown, for which C libraries have `clone` and `openat`; `io_uring` is refused as a whole.
//! A call of another architecture has other numbers, and ends the process.

use std::io;

use libc::sock_filter as Step;

/// What is left to a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    /// Modes, owners, times and attributes of files, and ways to open them, which Landlock lets pass.
    pub(crate) attributes: bool,
    pub(crate) network: bool,
    pub(crate) processes: bool,
    /// Signals to whomever the kernel lets them; otherwise to the own process group alone.
    pub(crate) signals: bool,
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;

/// What must hold of the low half of an argument.
#[derive(Debug, Clone)]
struct Check {
    argument: u32,
    mask: u32,
    /// The values that are allowed, or those that are not.
    values: Vec<u32>,
    allows: bool,
}

impl Check {
    fn is(argument: u32, values: &[u32]) -> Self {
        Self { argument, mask: !0, values: values.to_vec(), allows: true }
    }

    fn is_not(argument: u32, values: &[u32]) -> Self {
        Self { argument, mask: !0, values: values.to_vec(), allows: false }
    }

    fn masked(argument: u32, mask: u32, values: &[u32]) -> Self {
        Self { argument, mask, values: values.to_vec(), allows: true }
    }
}

/// Whether the kernel has filters that can refuse a call.
pub(crate) fn find() -> io::Result<()> {
    const GET_ACTION_AVAIL: libc::c_uint = 2;
    /// An answer with an error number, whatever that is.
    const ERRNO: u32 = 0x0005_0000;
    let action = ERRNO;
    // SAFETY: the call reads one word.
    let failed = unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives up for good, with all threads that are started from now on, what is not allowed. It needs `no_new_privs`.
pub(crate) fn install(allowed: Allowed) -> io::Result<()> {
    const SET_MODE_FILTER: libc::c_uint = 1;
    let mut steps = program(allowed, std::process::id());
    let len = u16::try_from(steps.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: steps.as_mut_ptr() };
    // SAFETY: the program and its steps are valid for the call, which copies them.
    let failed = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, 0, &raw const program) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const ALLOW: u32 = 0x7FFF_0000;
const REFUSE: u32 = 0x0005_0000 | libc::EPERM as u32;
const UNKNOWN: u32 = 0x0005_0000 | libc::ENOSYS as u32;
const KILL: u32 = 0x8000_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

fn step(code: u16, k: u32, yes: u8, no: u8) -> Step {
    Step { code, jt: yes, jf: no, k }
}
fn load(offset: u32) -> Step {
    step(0x20, offset, 0, 0)
}
fn and(mask: u32) -> Step {
    step(0x54, mask, 0, 0)
}
/// Skips so many steps if it is the value, and so many if not.
fn equal(value: u32, yes: u8, no: u8) -> Step {
    step(0x15, value, yes, no)
}
fn at_least(value: u32, yes: u8, no: u8) -> Step {
    step(0x35, value, yes, no)
}
fn end(with: u32) -> Step {
    step(0x06, with, 0, 0)
}

fn program(allowed: Allowed, own: u32) -> Vec<Step> {
    let mut steps = vec![load(ARCH), equal(ARCHITECTURE, 1, 0), end(KILL), load(NUMBER)];
    if cfg!(target_arch = "x86_64") {
        // The same calls with other numbers (x32).
        const X32: u32 = 0x4000_0000;
        steps.extend([at_least(X32, 0, 1), end(REFUSE)]);
    }
    for call in denied(allowed) {
        steps.extend([equal(number(call), 0, 1), end(REFUSE)]);
    }
    steps.extend([equal(number(libc::SYS_clone3), 0, 1), end(UNKNOWN)]);
    if !allowed.attributes {
        // Its flags are behind a pointer; whoever uses it does without where it is unknown.
        steps.extend([equal(number(libc::SYS_openat2), 0, 1), end(UNKNOWN)]);
    }
    for (call, checks) in conditions(allowed, own) {
        let block: Vec<Step> = checks.iter().flat_map(Check::steps).chain([end(ALLOW)]).collect();
        // Blocks are far below 256 steps: a handful of checks of a handful of values.
        steps.push(equal(number(call), 0, block.len() as u8));
        steps.extend(block);
    }
    steps.push(end(ALLOW));
    steps
}

impl Check {
    /// Goes on behind these steps if it holds.
    fn steps(&self) -> Vec<Step> {
        let mut steps = vec![load(ARGUMENTS + 8 * self.argument), and(self.mask)];
        if self.allows {
            for (at, value) in self.values.iter().enumerate() {
                // Over the values that are left, and the end.
                steps.push(equal(*value, (self.values.len() - at) as u8, 0));
            }
            steps.push(end(REFUSE));
        } else {
            for value in &self.values {
                steps.extend([equal(*value, 0, 1), end(REFUSE)]);
            }
        }
        steps
    }
}

fn number(call: libc::c_long) -> u32 {
    // Numbers of system calls are small.
    call as u32
}

/// Calls that are refused whatever their arguments.
fn denied(allowed: Allowed) -> Vec<libc::c_long> {
    let mut calls = vec![
        // Other processes.
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_kcmp,
        libc::SYS_pidfd_getfd,
        libc::SYS_process_madvise,
        PROCESS_MRELEASE,
        libc::SYS_move_pages,
        libc::SYS_migrate_pages,
        libc::SYS_ioprio_set,
        libc::SYS_setpgid,
        libc::SYS_setsid,
        // Memory and queues that others find by name.
        libc::SYS_shmget,
        libc::SYS_shmat,
        libc::SYS_semget,
        libc::SYS_msgget,
        libc::SYS_mq_open,
        libc::SYS_mq_unlink,
        // What would pass by this filter.
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_open_by_handle_at,
        libc::SYS_name_to_handle_at,
        libc::SYS_userfaultfd,
        // The kernel, and the system as a whole.
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_acct,
        libc::SYS_quotactl,
        QUOTACTL_FD,
        libc::SYS_syslog,
        libc::SYS_vhangup,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_clock_adjtime,
        libc::SYS_adjtimex,
        libc::SYS_fanotify_init,
        // Name spaces and mounts.
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_chroot,
        libc::SYS_pivot_root,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        OPEN_TREE_ATTR,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_kexec_file_load]);
    if !allowed.signals {
        calls.extend([libc::SYS_tkill, libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal]);
    }
    if !allowed.network {
        calls.extend([
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_accept,
            libc::SYS_accept4,
        ]);
    }
    if !allowed.processes {
        calls.extend([libc::SYS_execve, libc::SYS_execveat]);
        #[cfg(target_arch = "x86_64")]
        calls.extend([libc::SYS_fork, libc::SYS_vfork]);
    }
    if !allowed.attributes {
        calls.extend([
            libc::SYS_fchmod,
            libc::SYS_fchmodat,
            FCHMODAT2,
            libc::SYS_fchown,
            libc::SYS_fchownat,
            libc::SYS_utimensat,
            libc::SYS_truncate,
            libc::SYS_setxattr,
            libc::SYS_lsetxattr,
            libc::SYS_fsetxattr,
            libc::SYS_removexattr,
            libc::SYS_lremovexattr,
            libc::SYS_fremovexattr,
            SETXATTRAT,
            REMOVEXATTRAT,
            FILE_SETATTR,
        ]);
        #[cfg(target_arch = "x86_64")]
        calls.extend([
            libc::SYS_chmod,
            libc::SYS_chown,
            libc::SYS_lchown,
            libc::SYS_utime,
            libc::SYS_utimes,
            libc::SYS_futimesat,
        ]);
    }
    calls
}

// Newer than the oldest version of libc that will do. From 424 on, numbers are the same everywhere.
const QUOTACTL_FD: libc::c_long = 443;
const PROCESS_MRELEASE: libc::c_long = 448;
const FCHMODAT2: libc::c_long = 452;
const SETXATTRAT: libc::c_long = 463;
const REMOVEXATTRAT: libc::c_long = 466;
const OPEN_TREE_ATTR: libc::c_long = 467;
const FILE_SETATTR: libc::c_long = 469;

/// Calls that are refused for some arguments; all checks must hold.
fn conditions(allowed: Allowed, own: u32) -> Vec<(libc::c_long, Vec<Check>)> {
    /// Signals that the kernel sends to somebody else for a descriptor: the one who is to get them, and which.
    const SET_OWNER: [u32; 3] = [libc::F_SETOWN as u32, 15, 10];
    /// The same, and keys typed into a terminal.
    const IOCTLS: [u32; 4] = [0x8901, 0x8902, 0x5412, 0x541C];
    const THREAD: u32 = libc::CLONE_THREAD as u32;
    /// Another parent than the caller, and name spaces.
    const ELSEWHERE: u32 = (libc::CLONE_PARENT
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET) as u32;
    let itself = [0, own];
    let mut calls = vec![
        (libc::SYS_fcntl, vec![Check::is_not(1, &SET_OWNER)]),
        (libc::SYS_ioctl, vec![Check::is_not(1, &IOCTLS)]),
        (libc::SYS_prlimit64, vec![Check::is(0, &itself)]),
        (libc::SYS_sched_setaffinity, vec![Check::is(0, &itself)]),
        (libc::SYS_sched_setscheduler, vec![Check::is(0, &itself)]),
        (libc::SYS_sched_setparam, vec![Check::is(0, &itself)]),
        (libc::SYS_sched_setattr, vec![Check::is(0, &itself)]),
        (libc::SYS_setpriority, vec![Check::is(0, &[libc::PRIO_PROCESS]), Check::is(1, &itself)]),
    ];
    if !allowed.signals {
        // A group that it leads is its own.
        let group = own.wrapping_neg();
        calls.extend([
            (libc::SYS_kill, vec![Check::is(0, &[0, own, group])]),
            (libc::SYS_tgkill, vec![Check::is(0, &[own])]),
            (libc::SYS_rt_sigqueueinfo, vec![Check::is(0, &[own])]),
            (libc::SYS_rt_tgsigqueueinfo, vec![Check::is(0, &[own])]),
        ]);
    }
    if !allowed.attributes {
        /// Neither for reading nor for writing, but for `ioctl`: Landlock asks for no right.
        const NOTHING: u32 = libc::O_ACCMODE as u32;
        /// Before its third version it does not ask whether who cuts a file by opening it may write to it.
        const CUTS: u32 = libc::O_TRUNC as u32;
        let check = |argument| Check {
            argument,
            mask: NOTHING | CUTS,
            values: vec![libc::O_RDONLY as u32 | CUTS, NOTHING, NOTHING | CUTS],
            allows: false,
        };
        calls.push((libc::SYS_openat, vec![check(2)]));
        #[cfg(target_arch = "x86_64")]
        calls.push((libc::SYS_open, vec![check(1)]));
    }
    if !allowed.network {
        // Pairs that are connected for good: from others, packets could go elsewhere.
        let kinds = [libc::SOCK_STREAM as u32, libc::SOCK_SEQPACKET as u32];
        calls.push((libc::SYS_socketpair, vec![Check::masked(1, 0xF, &kinds)]));
    }
    if allowed.processes {
        calls.push((libc::SYS_clone, vec![Check::masked(0, ELSEWHERE, &[0])]));
    } else {
        calls.push((libc::SYS_clone, vec![Check::masked(0, THREAD, &[THREAD])]));
        // The kernel's word for the end of the supervisor is not to be taken back.
        calls.push((libc::SYS_prctl, vec![Check::is_not(0, &[libc::PR_SET_PDEATHSIG as u32])]));
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer: the same few instructions, done here.
    fn run(steps: &[Step], arch: u32, call: libc::c_long, arguments: [u64; 6]) -> u32 {
        let (mut value, mut at) = (0_u32, 0);
        loop {
            let Step { code, jt, jf, k } = steps[at];
            at += 1;
            let mut jump = |yes: bool| at += usize::from(if yes { jt } else { jf });
            match code {
                0x20 => {
                    value = match k {
                        NUMBER => call as u32,
                        ARCH => arch,
                        other => arguments[((other - ARGUMENTS) / 8) as usize] as u32,
                    }
                }
                0x54 => value &= k,
                0x15 => jump(value == k),
                0x35 => jump(value >= k),
                0x06 => return k,
                other => panic!("no such instruction: {other:#x}"),
            }
        }
    }

    const OWN: u32 = 4321;

    fn nothing() -> Allowed {
        Allowed { attributes: false, network: false, processes: false, signals: false }
    }

    #[track_caller]
    fn expect(allowed: Allowed, call: libc::c_long, first: [u64; 2], answer: u32) {
        let steps = program(allowed, OWN);
        let found = run(&steps, ARCHITECTURE, call, [first[0], first[1], 0, 0, 0, 0]);
        assert_eq!(found, answer, "{call} {first:?} {allowed:?}");
    }

    #[test]
    fn what_a_worker_needs_is_allowed() {
        for call in [
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_futex,
            libc::SYS_mmap,
            libc::SYS_memfd_create,
            libc::SYS_sendmsg,
            libc::SYS_recvmsg,
            libc::SYS_exit_group,
            libc::SYS_openat,
        ] {
            expect(nothing(), call, [0; 2], ALLOW);
        }
        expect(nothing(), libc::SYS_clone, [libc::CLONE_THREAD as u64 | libc::CLONE_VM as u64, 0], ALLOW);
        expect(nothing(), libc::SYS_clone3, [0; 2], UNKNOWN);
        expect(nothing(), libc::SYS_fcntl, [3, libc::F_DUPFD_CLOEXEC as u64], ALLOW);
        for target in [u64::from(OWN), 0, u64::from(OWN).wrapping_neg(), u64::from(OWN.wrapping_neg())] {
            expect(nothing(), libc::SYS_kill, [target, 9], ALLOW);
        }
        expect(nothing(), libc::SYS_tgkill, [u64::from(OWN), u64::from(OWN) + 1], ALLOW);
        expect(nothing(), libc::SYS_socketpair, [1, (libc::SOCK_STREAM | libc::SOCK_CLOEXEC) as u64], ALLOW);
        expect(nothing(), libc::SYS_prctl, [libc::PR_SET_NAME as u64, 0], ALLOW);
    }

    #[test]
    fn what_concerns_others_is_refused() {
        for call in [libc::SYS_socket, libc::SYS_execve, libc::SYS_ptrace, libc::SYS_fchmod, libc::SYS_tkill]
        {
            expect(nothing(), call, [0; 2], REFUSE);
        }
        expect(nothing(), libc::SYS_clone, [libc::SIGCHLD as u64, 0], REFUSE);
        for target in [1, u64::MAX, u64::from(OWN) + 1, 0xFFFF_FFFF, u64::from(OWN - 1)] {
            expect(nothing(), libc::SYS_kill, [target, 9], REFUSE);
        }
        // Only the low half counts for the kernel, too.
        expect(nothing(), libc::SYS_kill, [1 << 32 | 1, 9], REFUSE);
        for command in [libc::F_SETOWN as u64, 10, 15] {
            expect(nothing(), libc::SYS_fcntl, [0, command], REFUSE);
        }
        expect(nothing(), libc::SYS_setpriority, [libc::PRIO_USER as u64, 0], REFUSE);
        expect(nothing(), libc::SYS_setpriority, [0, 1], REFUSE);
        expect(nothing(), libc::SYS_prlimit64, [1, 0], REFUSE);
        expect(nothing(), libc::SYS_socketpair, [1, libc::SOCK_DGRAM as u64], REFUSE);
        expect(nothing(), libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as u64, 0], REFUSE);
    }

    /// Each that docs/security.md speaks of, and its relatives.
    #[test]
    fn what_concerns_the_whole_system_or_what_files_are_like_is_refused() {
        let system = [
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_fsopen,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fspick,
            libc::SYS_mount_setattr,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_keyctl,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            libc::SYS_shmget,
            libc::SYS_shmat,
            libc::SYS_semget,
            libc::SYS_msgget,
            libc::SYS_mq_open,
            libc::SYS_mq_unlink,
            libc::SYS_settimeofday,
            libc::SYS_clock_settime,
            libc::SYS_clock_adjtime,
            libc::SYS_adjtimex,
            libc::SYS_chroot,
            libc::SYS_reboot,
            libc::SYS_kexec_load,
        ];
        let others = [
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_process_madvise,
            libc::SYS_ioprio_set,
        ];
        let all = Allowed { attributes: true, network: true, processes: true, signals: true };
        for call in system.into_iter().chain(others) {
            expect(nothing(), call, [0; 2], REFUSE);
            // Nothing that can be allowed gives these up.
            expect(all, call, [0; 2], REFUSE);
        }
        for call in [
            libc::SYS_fchmodat,
            FCHMODAT2,
            libc::SYS_fchown,
            libc::SYS_fchownat,
            libc::SYS_utimensat,
            libc::SYS_truncate,
            libc::SYS_setxattr,
            libc::SYS_lsetxattr,
            libc::SYS_fsetxattr,
            libc::SYS_removexattr,
            libc::SYS_lremovexattr,
            libc::SYS_fremovexattr,
        ] {
            expect(nothing(), call, [0; 2], REFUSE);
            expect(all, call, [0; 2], ALLOW);
        }
    }

    #[test]
    fn what_is_allowed_by_name_is_allowed_and_nothing_else() {
        let with = |change: fn(&mut Allowed)| {
            let mut allowed = nothing();
            change(&mut allowed);
            allowed
        };
        let network = with(|allowed| allowed.network = true);
        expect(network, libc::SYS_socket, [2, 1], ALLOW);
        expect(network, libc::SYS_execve, [0; 2], REFUSE);
        let processes = with(|allowed| allowed.processes = true);
        expect(processes, libc::SYS_execve, [0; 2], ALLOW);
        expect(processes, libc::SYS_clone, [libc::SIGCHLD as u64, 0], ALLOW);
        expect(processes, libc::SYS_clone, [libc::SIGCHLD as u64 | libc::CLONE_PARENT as u64, 0], REFUSE);
        expect(processes, libc::SYS_clone, [libc::CLONE_NEWUSER as u64, 0], REFUSE);
        expect(processes, libc::SYS_setsid, [0; 2], REFUSE);
        let signals = with(|allowed| allowed.signals = true);
        expect(signals, libc::SYS_kill, [1, 9], ALLOW);
        expect(with(|allowed| allowed.attributes = true), libc::SYS_fchmod, [0; 2], ALLOW);
    }

    #[test]
    fn files_are_opened_to_be_read_or_written_and_to_be_cut_only_where_they_may_be_written() {
        let all = Allowed { attributes: true, ..nothing() };
        let answer = |allowed, call, arguments| run(&program(allowed, OWN), ARCHITECTURE, call, arguments);
        let cuts = libc::O_TRUNC;
        let others = libc::O_CLOEXEC | libc::O_CREAT;
        for (mode, expected) in [
            (libc::O_RDONLY, ALLOW),
            (libc::O_RDONLY | cuts, REFUSE),
            (libc::O_WRONLY | cuts, ALLOW),
            (libc::O_RDWR | cuts, ALLOW),
            (libc::O_ACCMODE, REFUSE),
            (libc::O_ACCMODE | cuts, REFUSE),
        ] {
            for flags in [mode, mode | others].map(|flags| flags as u64) {
                assert_eq!(
                    answer(nothing(), libc::SYS_openat, [0, 0, flags, 0, 0, 0]),
                    expected,
                    "{flags:#x}"
                );
                assert_eq!(answer(all, libc::SYS_openat, [0, 0, flags, 0, 0, 0]), ALLOW, "{flags:#x}");
                #[cfg(target_arch = "x86_64")]
                assert_eq!(answer(nothing(), libc::SYS_open, [0, flags, 0, 0, 0, 0]), expected, "{flags:#x}");
            }
        }
        assert_eq!(answer(nothing(), libc::SYS_openat2, [0; 6]), UNKNOWN);
        assert_eq!(answer(all, libc::SYS_openat2, [0; 6]), ALLOW);
    }

    #[test]
    fn another_architecture_is_the_end() {
        let steps = program(nothing(), OWN);
        assert_eq!(run(&steps, 0x4000_0003, libc::SYS_read, [0; 6]), KILL);
        if cfg!(target_arch = "x86_64") {
            assert_eq!(run(&steps, ARCHITECTURE, 0x4000_0000 | libc::SYS_read, [0; 6]), REFUSE);
        }
    }
}
