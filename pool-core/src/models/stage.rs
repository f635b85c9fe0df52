//! A pool on a stage: all of it is real but its workers, which are threads of the model, and its reactor, which spawns nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use linkme::distributed_slice;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use pool_ipc::boot::socket_pair;
use pool_ipc::{
    Board, Fill, FrameReader, Hello, Kind, Region, RingReader, RingWriter, TaskDecl, Wake, set_nonblocking,
};

use crate::buffer::Args;
use crate::executable::WorkerExe;
use crate::gate::Gate;
use crate::handle::TaskHandle;
use crate::inbox::Inbox;
use crate::job::{Job, Part, PartArgs};
use crate::outcome::Cell;
use crate::output::{Forwarder, Output};
use crate::policy::RestartPolicy;
use crate::pool::spec_of;
use crate::reply::Encoded;
use crate::start_method::StartMethod;
use crate::supervisor::confined::Confiner;
use crate::supervisor::engine::seeing::Seeing;
use crate::supervisor::engine::weigh::Limits;
use crate::supervisor::engine::{Engine, Parts};
use crate::supervisor::event::TaskKey;
use crate::supervisor::launch::{Launched, Launcher};
use crate::supervisor::lead::Lead;
use crate::supervisor::link::Rings;
use crate::supervisor::machine::{Config, Machine, Staffing};
use crate::supervisor::reactor::attend;
use crate::supervisor::shared::Shared;
use crate::supervisor::token::{Source, TIMER, Token, WAKE};
use crate::sync::{self, World, across, now, ready, thread};
use crate::task::{self, TASKS, TaskEntry};
use crate::transport::{BELL, Transport};

/// What is submitted: its result is the byte that it was called with.
#[distributed_slice(TASKS)]
static ECHO: TaskEntry = TaskEntry::new("models::echo", "fn(u8) -> u8", |_, _, _| Ok(()));

/// No process has this number.
const PID: u32 = i32::MAX as u32;
const LIMIT: u32 = 1 << 16;
/// A timer that fires sooner than this fires when its reactor has nothing else to do. Others never do: nothing fails here.
const SOON: Duration = Duration::from_millis(1);

/// Runs a model in every order with at most so many switches that no thread has asked for, and as many as `POOL_LOOM_MORE` says.
pub(super) fn explore(switches: usize, model: impl Fn() + Send + Sync + 'static) {
    let (model, orders) = (Arc::new(model), Arc::new(AtomicU64::new(0)));
    let counter = Arc::clone(&orders);
    let mut builder = loom::model::Builder::new();
    let more = std::env::var("POOL_LOOM_MORE").ok().map_or(0, |more| more.parse().expect("a number"));
    builder.preemption_bound = Some(switches + more);
    builder.max_branches = 100_000;
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        World::begin();
        let model = Arc::clone(&model);
        // Not on the first stack, which is small.
        thread::spawn(move || model()).join().expect("the model holds");
        World::end();
    });
    println!("{} orders", orders.load(Ordering::Relaxed));
}

/// A pool that is ready, and the workers that are to be run.
pub(super) struct Stage {
    pub(super) shared: Arc<Shared>,
    workers: Vec<Worker>,
}

impl Stage {
    /// A pool with so many workers, and so many places in its queue.
    pub(super) fn new(workers: u32, queue_limit: Option<usize>) -> Self {
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap());
        let eventfd = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap();
        let (wake, timer) = (Arc::new(eventfd()), OwnedFd::from(eventfd()));
        epoll.add(&*wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE)).unwrap();
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER)).unwrap();
        let lead = Arc::new(Lead::new(&epoll).unwrap());
        let name = "model".to_owned();
        let engine = Engine::new(Parts {
            machine: Machine::new(config(workers), now()),
            epoll: Arc::clone(&epoll),
            lead,
            timer,
            forwarder: Forwarder::new(Output::Null, name.clone(), Arc::new(|| ())),
            executable: String::new(),
            pool: name.clone(),
            frame_limit: LIMIT,
            seeing: Seeing::new(name.clone(), None, false),
            limits: Limits { recycle: None, kill: None, processes: None },
        });
        let gate = Gate::new(queue_limit, workers as usize);
        let shared = Arc::new(Shared::new(engine, wake, epoll, name, workers as usize, launcher(), gate));
        // The spawns that the machine wants from the start.
        shared.with(|_, _| ());
        let workers = (0..workers).map(|_| Worker::start(&shared)).collect();
        Self { shared, workers }
    }

    /// Runs the reactor, until [`World::over`].
    pub(super) fn reactor(&self) -> loom::thread::JoinHandle<()> {
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            let (world, mut events) = (World::current(), vec![EpollEvent::empty(); 8]);
            while !world.is_over() {
                if world.until_timer().is_some_and(|left| left <= SOON) {
                    world.pass(SOON);
                }
                let ready = ready::wait(&shared.epoll, &mut events).unwrap();
                if ready > 0 {
                    attend(&shared, &events[..ready]);
                }
            }
        })
    }

    /// The reactor is to end.
    pub(super) fn over(&self) {
        World::current().over();
    }

    /// Runs the next worker, until it has done so many tasks.
    pub(super) fn worker(&mut self, tasks: usize) -> loom::thread::JoinHandle<()> {
        let worker = self.workers.pop().expect("one is left");
        thread::spawn(move || worker.run(tasks))
    }

    /// Runs the next worker, which waits before each of its tasks until it is [allowed](Steps::allow).
    pub(super) fn worker_in_steps(&mut self, tasks: usize) -> (loom::thread::JoinHandle<()>, Arc<Steps>) {
        let mut worker = self.workers.pop().expect("one is left");
        let steps = Arc::new(Steps::default());
        worker.steps = Some(Arc::clone(&steps));
        (thread::spawn(move || worker.run(tasks)), steps)
    }

    /// Submits a task whose result is this.
    pub(super) fn submit(&self, result: u8) -> TaskHandle<u8> {
        submit(&self.shared, result)
    }
}

/// As `Pool::apply_async`.
pub(super) fn submit(shared: &Arc<Shared>, result: u8) -> TaskHandle<u8> {
    let place = shared.gate.is_limited().then(|| shared.gate.enter(shared));
    let cell = shared.cells.make(&ECHO, Args::from(vec![result]), None);
    let key = shared.submit(&cell, spec_of(None, 1, None), false, place);
    handle(shared, cell, key)
}

/// Submits an item of a batch, as a flight does, whose result is this.
pub(super) fn submit_item(shared: &Shared, inbox: &Arc<Inbox>, result: u8) {
    let part = Part {
        entry: &ECHO,
        name: None,
        args: PartArgs::One(Args::from(vec![result])),
        inbox: Arc::clone(inbox),
        index: 0,
        kind: 0,
        end: 1,
    };
    shared.with(|engine, now| {
        let _ = engine.submit(now, spec_of(None, 1, None), Job::Part(Box::new(part)));
        engine.hand_out(now, false);
    });
}

fn handle(shared: &Arc<Shared>, cell: Arc<Cell>, key: Option<TaskKey>) -> TaskHandle<u8> {
    TaskHandle::new(cell, key, Arc::clone(shared), "echo", decode)
}

fn decode(encoded: Encoded<'_>) -> Result<u8, String> {
    encoded.read(|bytes| Ok(std::mem::take(bytes)[0])).map_err(|error| format!("{error:?}"))
}

fn config(workers: u32) -> Config {
    Config { start_up: Duration::ZERO, prefetch: 16, prefetch_bytes: 1 << 12, ..Config::of(workers) }
}

/// It launches nothing.
fn launcher() -> Launcher {
    Launcher {
        exe: WorkerExe::current().open().unwrap(),
        pool: String::new(),
        env: Vec::new(),
        worker_env: None,
        nice: 0,
        cpu_affinity: Vec::new(),
        states: Vec::new(),
        current_dir: None,
        depth: 0,
        frame_limit: LIMIT,
        core_dumps: false,
        transport: Transport::Rings,
        start: StartMethod::Spawn,
        measured: false,
        marks: false,
        zygote: Mutex::default(),
        confiner: Confiner::default(),
        shared: None,
    }
}

/// How many tasks a worker may begin.
#[derive(Default)]
pub(super) struct Steps {
    allowed: sync::Mutex<usize>,
    changed: sync::Condvar,
}

impl Steps {
    pub(super) fn allow(&self) {
        *self.allowed.lock().unwrap() += 1;
        self.changed.notify_one();
    }

    fn take(&self) {
        let allowed = self.allowed.lock().unwrap();
        let mut allowed = self.changed.wait_while(allowed, |allowed| *allowed == 0).unwrap();
        *allowed -= 1;
    }
}

/// A worker as far as rings, board and bells go.
struct Worker {
    tasks: RingReader,
    results: RingWriter,
    board: Board,
    /// Where it sleeps.
    doorbell: OwnedFd,
    /// The supervisor's doorbell.
    bell: OwnedFd,
    reader: FrameReader,
    steps: Option<Arc<Steps>>,
}

impl Worker {
    /// Starts one, which has said hello.
    fn start(shared: &Shared) -> Self {
        let who = shared.with(|engine, _| engine.next_spawn()).expect("a worker is wanted");
        let (region, memory) = Region::create().unwrap();
        let (tasks_in, mut results_out) = region.supervisor();
        results_out.arm(Wake::Each).unwrap();
        let (tasks, mut results) = Region::open(memory.as_fd()).unwrap().worker();
        let pipe =
            || std::io::pipe().map(|(read, write)| (OwnedFd::from(read), OwnedFd::from(write))).unwrap();
        let ((doorbell, tasks_bell), (results_bell, bell)) = (pipe(), pipe());
        for fd in [&doorbell, &tasks_bell, &results_bell] {
            set_nonblocking(fd.as_fd()).unwrap();
        }
        let silent = || OwnedFd::from(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap());
        let (socket, _) = socket_pair().unwrap();
        let launched = Launched {
            pid: PID,
            pidfd: silent(),
            board: region.board(),
            gauges: region.gauges(0),
            marks: false,
            rings: Some(Rings { tasks: tasks_in, results: results_out }),
            socket,
            lifeline: silent(),
            tasks: tasks_bell,
            results: results_bell,
            stdout: silent(),
            stderr: silent(),
            confined: Default::default(),
        };
        let declare =
            |task: &TaskEntry| TaskDecl { name: task.name.to_owned(), signature: task.signature.to_owned() };
        let hello = Hello {
            pid: PID,
            build_id: Vec::new(),
            executable: String::new(),
            base_max_rss: 0,
            tasks: task::table().iter().map(declare).collect(),
        };
        assert!(results.frame(Kind::Hello, 0, &[&hello.encode().unwrap()]).unwrap());
        assert!(results.publish());
        nix::unistd::write(&bell, &[BELL]).unwrap();
        shared.with(|engine, now| engine.launched(now, who, Ok(launched)));
        shared.with(|engine, now| engine.on_ready(now, Token { who, source: Source::Results }));
        Self {
            tasks,
            results,
            board: region.board(),
            doorbell,
            bell,
            reader: FrameReader::new(LIMIT),
            steps: None,
        }
    }

    fn run(mut self, tasks: usize) {
        let mut done = 0;
        while done < tasks {
            let (filled, _) = across(|| self.reader.fill_from(&mut self.tasks)).unwrap();
            if filled != Fill::WouldBlock {
                while let Some(ticket) = self.next_task() {
                    self.serve(ticket.0, ticket.1);
                    done += 1;
                }
                continue;
            }
            self.run_low();
            if across(|| self.tasks.arm(Wake::Each)).unwrap() {
                let mut fds = [PollFd::new(self.doorbell.as_fd(), PollFlags::POLLIN)];
                ready::poll(&mut fds, PollTimeout::NONE).unwrap();
                nix::unistd::read(&self.doorbell, &mut [0; 16]).unwrap();
            }
        }
        self.run_low();
    }

    /// The ticket of the next task, and its argument.
    fn next_task(&mut self) -> Option<(u64, u8)> {
        let frame = self.reader.next_frame().unwrap()?;
        assert_eq!(frame.kind, Kind::Task);
        Some((frame.ticket, *frame.payload.last().unwrap()))
    }

    fn serve(&mut self, ticket: u64, result: u8) {
        if let Some(steps) = &self.steps {
            steps.take();
        }
        let claimed = across(|| self.board.claim(ticket, pool_ipc::now_ns()));
        if !claimed {
            return;
        }
        let rings = across(|| {
            assert!(self.results.frame(Kind::Done, ticket, &[&[result]]).unwrap());
            self.results.publish()
        });
        if rings {
            self.ring();
        }
        self.board.finish(ticket);
    }

    fn run_low(&mut self) {
        if across(|| self.results.ring_if_waiting()) {
            self.ring();
        }
    }

    fn ring(&self) {
        ready::tell(|| nix::unistd::write(&self.bell, &[BELL])).unwrap();
    }
}
