//! Cases that need many descriptors or take them away: each in a test file, and thus a process, of its own.

use std::cell::Cell;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sluice_relay::{End, Settings};

use super::peers::{accept, address, connect, door, read_exactly};
use super::{Rig, Signal, Tuning, in_time};
use crate::{Engine, Listener, RelaySetup};

/// Idle tunnels, as many as descriptors allow, at most `tunnels_max`: no buffer is held, and all end in order.
pub fn idle_tunnels_hold_no_buffers<R: Rig>(tunnels_max: usize) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    // Four sockets per tunnel are in this process.
    let descriptors = limit.maximum.map_or(usize::MAX, |maximum| maximum as usize);
    let tunnels = tunnels_max.min(descriptors.saturating_sub(200) / 4);
    let (at_door, origin_door) = (door(), door());
    let (at, origin_at) = (address(&at_door), address(&origin_door));
    let close = Signal::default();
    let (closing, silent) = (close.clone(), Signal::default());
    let silence = silent.clone();
    let clients = thread::spawn(move || {
        let mut idle: Vec<TcpStream> = Vec::new();
        for _ in 0..tunnels {
            let mut stream = connect(at);
            stream.write_all(b"x").unwrap();
            assert_eq!(read_exactly(&mut stream, 1), b"x");
            idle.push(stream);
        }
        silence.set();
        closing.wait();
    });
    let origins = thread::spawn(move || {
        let mut idle: Vec<TcpStream> = Vec::new();
        for _ in 0..tunnels {
            let mut stream = accept(&origin_door);
            let heard = read_exactly(&mut stream, 1);
            stream.write_all(&heard).unwrap();
            idle.push(stream);
        }
        idle.iter_mut().for_each(|stream| assert!(super::peers::read_all(stream).is_empty()));
    });
    R::run(Tuning { buffers_max: 16, pipes_max: 16, ..Tuning::default() }, |engine| async move {
        let listener = engine.listen(at, Some(at_door)).unwrap();
        let (closed, all) = (Rc::new(Cell::new(0)), Signal::default());
        for _ in 0..tunnels {
            let downstream = in_time(&engine, listener.accept()).await.unwrap();
            let upstream = in_time(&engine, engine.connect(origin_at, None)).await.unwrap();
            let settings = Settings { splice_after_full_buffers: 1, ..Settings::default() };
            let setup = RelaySetup { settings, ..RelaySetup::default() };
            let relay = engine.relay(downstream, upstream, setup);
            let (closed, all) = (Rc::clone(&closed), all.clone());
            engine.spawn(async move {
                let report = relay.await;
                assert_eq!(
                    (report.end, report.to_upstream_bytes, report.to_downstream_bytes),
                    (End::Closed, 1, 1)
                );
                closed.set(closed.get() + 1);
                if closed.get() == tunnels {
                    all.set();
                }
            });
        }
        in_time(&engine, silent.seen()).await;
        assert_eq!(engine.stats().buffers_in_use, 0, "{tunnels} silent tunnels");
        close.set();
        in_time(&engine, all.seen()).await;
    });
    clients.join().unwrap();
    origins.join().unwrap();
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// Without a free descriptor accept and connect say so, and go on when there is one again.
pub fn exhausted_descriptors_are_told_and_survived<R: Rig>() {
    let at_door = door();
    let at = address(&at_door);
    let mut client = connect(at);
    client.write_all(b"queued").unwrap();
    R::run(Tuning::default(), |engine| async move {
        let listener = engine.listen(at, Some(at_door)).unwrap();
        let limit = getrlimit(Resource::Nofile);
        let lowest_free = client.try_clone().unwrap().as_raw_fd() as u64;
        setrlimit(Resource::Nofile, Rlimit { current: Some(lowest_free), ..limit }).unwrap();
        let exhausted = |error: Option<io::Error>| error.and_then(|error| error.raw_os_error());
        let emfile = Some(rustix::io::Errno::MFILE.raw_os_error());
        for _ in 0..3 {
            assert_eq!(exhausted(in_time(&engine, listener.accept()).await.err()), emfile);
        }
        assert_eq!(exhausted(in_time(&engine, engine.connect(at, None)).await.err()), emfile);
        setrlimit(Resource::Nofile, limit).unwrap();
        let stream = in_time(&engine, listener.accept()).await.expect("the connection stayed queued");
        let received = in_time(&engine, crate::Stream::receive(&stream)).await.unwrap();
        assert_eq!(&*received, b"queued");
    });
}
